"""The difficulty scale: designed offsets of every kind of variant."""
