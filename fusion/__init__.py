"""Image fusion itself: pairs, degradations, models, metrics, reports. Imports neither ray nor detection."""
