"""The schematics draw the numbers and the words that they are given."""

import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.patches import PathPatch, Rectangle

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
    assert words(ax) == ["1.0", "−∞", "−0.3"]
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


def test_a_tile_is_white_for_exactly_nothing_and_warmer_for_more(ax):
    draw.characters(ax, "abcd", amounts=torch.tensor([0.0, 1e-9, 0.5, 2.0]))
    colours = [text.get_bbox_patch().get_facecolor() for text in ax.texts]
    assert colours[0] == (1, 1, 1, 1)
    blue = [colour[2] for colour in colours]
    assert blue == sorted(set(blue), reverse=True), "even the smallest amount is not white"
    draw.characters(ax, "ab", amounts=torch.zeros(2))
    assert [text.get_bbox_patch().get_facecolor() for text in ax.texts[4:]] == [(1, 1, 1, 1)] * 2
    with pytest.raises(ValueError, match="2 amounts for 3 characters"):
        draw.characters(ax, "abc", amounts=torch.zeros(2))


def test_a_whole_gpt_is_drawn_from_its_numbers(ax):
    vectors, names = torch.tensor([[1.0, -1.0], [0.0, 0.5]]).repeat(2, 1), ["a", "b", "c", "d", "e", "f", "g"]
    probs = torch.tensor([0.5, 0.25, 0.1, 0.08, 0.05, 0.018, 0.002])
    draw.whole_gpt(ax, "abaa", [0, 1, 0, 0], [vectors, vectors], probs, names, drawn=6, layers=3)
    said = words(ax)
    assert said.index("a") < said.index("0") < said.index("3 such blocks") < said.index("50%")
    assert [word for word in said if word.startswith(("T =", "("))] == ["T = 4", "(T,)", "(T, 2)", "(T, 2)", "(7,)"]
    assert [word for word in said if "%" in word] == ["50%", "25%", "10%", "8%", "<1%"], "the drawn one is always there"
    assert said[-2:] == ["g", "append it to the text, and begin again at the top"]
    bars = [patch for patch in ax.patches if isinstance(patch, Rectangle) and patch.get_height() == pytest.approx(0.4)]
    assert bars[0].get_width() == pytest.approx(2 * bars[1].get_width())
    assert bars[4].get_facecolor() != bars[0].get_facecolor()
    attention = [line for line in ax.lines if list(line.get_ydata()) == [-6.85, -8.35] and line.get_marker() == "None"]
    assert len(attention) == 10
    assert all(line.get_xdata()[0] <= line.get_xdata()[1] for line in attention), "none comes from a later position"


def test_a_whole_gpt_wants_an_id_and_a_vector_for_each_character(ax):
    probs, two = torch.tensor([1.0]), torch.ones(2, 4)
    with pytest.raises(ValueError, match="1 ids for 2 characters"):
        draw.whole_gpt(ax, "ab", [0], [two, two], probs, ["a"], 0, 1)
    with pytest.raises(ValueError, match=r"two tables of the shape \(2, C\)"):
        draw.whole_gpt(ax, "ab", [0, 0], [two, torch.ones(3, 4)], probs, ["a"], 0, 1)
