"""A model's metric before labels are known, and how good that was."""
