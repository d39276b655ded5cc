"""The option of grade.py. And nbval marks the cells after a timed-out one as expected failures: here they fail."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--lesson", action="append", default=[], help="a learner's file, for notebooks/grade.py")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if type(item).__name__ == "IPyNbCell" and hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"not run, or not finished: {report.wasxfail}"
        del report.wasxfail
