"""What Hydra sweepers of several runs are made of; no plugin by itself."""
