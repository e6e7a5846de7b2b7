"""The ablation as a Hydra sweeper: `hydra/sweeper=stockenh_ablate`."""
