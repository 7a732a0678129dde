"""Stream a data set through all services in one process, and observe what they publish."""
