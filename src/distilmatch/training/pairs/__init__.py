"""The pair job: transfer set, soft labels, and the stages that train a DiPair on them."""
