"""The schematics draw the numbers and the words that they are given."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.patches import PathPatch

from picogpt import draw


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    fig.canvas.draw()  # whatever was drawn can be rendered
    plt.close(fig)


def words(ax):
    return [text.get_text() for text in ax.texts if text.get_text()]


def test_characters_are_tiles_with_signs_for_what_cannot_be_seen(ax):
    draw.characters(ax, "a \n", here=[1], below=["x", "y", "z"])
    assert words(ax) == ["a", "␣", "\\n", "x", "y", "z"]
    colours = [text.get_bbox_patch().get_facecolor() for text in ax.texts[:3]]
    assert colours[0] == colours[2] != colours[1]


def test_spans_are_the_pieces_of_a_text_with_their_ids(ax):
    draw.spans(ax, {"words": ["To", " be"], "known": ["é", "T"]}, {"words": [7, 12], "known": [None, 0]})
    assert words(ax) == ["words", "To", "7", "␣be", "12", "known", "é", "?", "T", "0"]
    colours = [tile.get_facecolor() for tile in ax.patches]
    assert len(set(colours)) == 3  # a colour for the first of a row, for the second, and for what has no id
    assert colours[1] == colours[3]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # from top to bottom
    with pytest.raises(ValueError, match="words: 1 ids for 2 pieces"):
        draw.spans(ax, {"words": ["To", " be"]}, {"words": [7]})


def test_spans_begin_a_new_line_where_the_old_one_is_full(ax):
    draw.spans(ax, {"": ["four"] * 5}, columns=10)
    corners = [(round(tile.get_x(), 1), tile.get_y()) for tile in ax.patches]
    assert [x for x, _ in corners] == [0, 4.7, 0, 4.7, 0]
    assert len({y for _, y in corners}) == 3
    assert max(tile.get_x() + tile.get_width() for tile in ax.patches) <= 10


@pytest.mark.filterwarnings("error")  # matplotlib warns of a glyph that its font lacks
def test_spans_draw_a_square_for_what_the_font_lacks(ax):
    draw.spans(ax, {"": ["日本", "\n", "ok"]})
    assert words(ax) == ["□□", "\\n", "ok"]
    ax.figure.canvas.draw()


def test_a_look_back_is_as_thick_as_its_weight(ax):
    draw.look_back(ax, "the ki", 5, torch.tensor([0.1, 0.0, 0.4, 0.15, 0.2, 0.15]))
    curves = [patch for patch in ax.patches if isinstance(patch, PathPatch)]
    ends = [round(curve.get_path().vertices[-1][0]) for curve in curves]
    assert ends == [0, 2, 3, 4]  # none to a weight of 0, none to itself
    widths = dict(zip(ends, (curve.get_linewidth() for curve in curves), strict=True))
    assert sorted(widths, key=widths.get) == [0, 3, 4, 2]
    assert words(ax)[6:] == ["0.10", "0.00", "0.40", "0.15", "0.20", "0.15"]
    with pytest.raises(ValueError, match="2 weights for 3 characters"):
        draw.look_back(ax, "abc", 1, torch.ones(2))


def test_a_grid_prints_every_number_and_greys_what_is_hidden(ax):
    numbers = torch.tensor([[1.0, -torch.inf], [-0.26, torch.nan]])
    draw.grid(ax, numbers, "ab", ["x", "y"], "scores", digits=1)
    assert words(ax) == ["1.0", "−∞", "−0.3", "nan"]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["x", "y"]
    image = ax.images[0]
    assert image.get_array().mask.tolist() == [[False, True], [False, True]]
    assert image.get_clim() == (-1, 1)  # white is 0
    with pytest.raises(ValueError, match="give a matrix"):
        draw.grid(ax, torch.ones(3))


def test_a_grid_of_zeros_can_be_drawn(ax):
    draw.grid(ax, torch.zeros(2, 2))
    assert words(ax) == ["0.00"] * 4


def test_boxes_are_connected_by_arrows_to_boxes_that_exist(ax):
    draw.boxes(ax, {"ids": (0, 0), "block": (2, 0)}, [("ids", "block")], here=["block"])
    assert words(ax) == ["ids", "block"]
    assert sum(text.arrow_patch is not None for text in ax.texts if hasattr(text, "arrow_patch")) == 1
    with pytest.raises(ValueError, match="no box is called 'head'"):
        draw.boxes(ax, {"ids": (0, 0)}, [("ids", "head")])
