"""One model split over the processes that `mlx.launch` started: each holds some heads and a part of every MLP."""
