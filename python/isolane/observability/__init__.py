"""Watching isolane run: metrics, traces, alerts, logs and the dashboard, each in a module of its own.

Engines and dispatchers import ``seams`` from here, so this file imports nothing.
"""
