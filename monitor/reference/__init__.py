"""Test windows for drift against the reference of the model that scored them."""
