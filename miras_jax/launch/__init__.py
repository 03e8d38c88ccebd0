"""`miras launch`: manifests for clusters, checked and written, never run."""
