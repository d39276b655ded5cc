"""The command-line option of grade.py."""


def pytest_addoption(parser):
    parser.addoption("--lesson", action="append", default=[], help="a learner's file, for tools/grade.py")
