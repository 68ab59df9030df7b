"""Configs: `base.py` holds every key and its default, a method's file its difference.

A config file defines `get_config(variant) -> ConfigDict` and a literal dict `VARIANTS`.
"""
