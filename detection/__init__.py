"""Object detection on fused images. May import fusion, never ray."""
