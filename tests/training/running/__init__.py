"""Tests of ``autobatch/training/running``."""
