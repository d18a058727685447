"""The page at `/`: the other apps' panels, and what became of every delivery."""
