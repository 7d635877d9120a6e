"""How a run is judged by others."""
