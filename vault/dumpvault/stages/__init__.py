"""The steps that data passes through, one module each. Stages do not import each other; flows join them."""
