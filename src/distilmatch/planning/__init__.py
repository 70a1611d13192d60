"""How long a job takes, here and on more machines: rates measured on a part of it, and the limits behind them."""
