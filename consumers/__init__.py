"""Inference scores feature records; outcomes joins the predictions with their labels."""
