"""What to make: a plan says for each row number which condition is drawn. Pure, lazy, one file a kind of plan."""
