"""The embedded architecture, and model folders in the diffusers layout."""
