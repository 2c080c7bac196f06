"""The connection to Ray: a cluster, or a local Ray for one stage."""
