"""Watch games: videos, a window, the inspector of the network, and playing by hand."""
