"""Examine a GPT from outside, anybody's, and say what is wrong with it."""

from .causality import *  # noqa: F403
