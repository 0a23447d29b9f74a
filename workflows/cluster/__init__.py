"""Ray: joining a cluster, running work over it, and errors that come back."""
