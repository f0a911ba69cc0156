"""Limits in virtual time: the adaptive controller and the fair order against what others do, judged by thresholds."""
