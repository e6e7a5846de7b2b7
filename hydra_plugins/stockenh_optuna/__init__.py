"""Optuna 5 as a Hydra sweeper: `hydra/sweeper=stockenh_optuna`."""
