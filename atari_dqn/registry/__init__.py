"""Which environments there are: Gymnasium's and your own, by name. Settings are checked against them."""
