"""A wordbook: editors publish entries, learners review the words that are due."""
