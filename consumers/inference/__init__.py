"""Score feature records with the champion."""
