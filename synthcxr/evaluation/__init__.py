"""How good, how faithful and how private generated radiographs are: metrics take arrays and give typed scores."""
