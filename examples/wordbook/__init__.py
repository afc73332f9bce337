"""A wordbook: editors write a vocabulary, learners review the words that are due.

``README.md`` beside this file has the map.
"""
