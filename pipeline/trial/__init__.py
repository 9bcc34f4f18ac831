"""Two or more ontologies on the same images, side by side: where they agree, what each costs, and which is better.

`arms` labels, `agreement` compares, `judge` needs a truth, `sheet` draws, `trial` puts them together.
"""
