"""Define what the topics contain: topics, events, and how both are encoded."""
