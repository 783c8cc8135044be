"""The page of a run: one HTML file with everything in it, made in one place from named sections.

content    what a page is made of, without a word of HTML: sections and their blocks
plots      lines over iterations and stacked bars, as the plain values that Plotly draws
metrics    an attempt's numbers over its iterations, thinned where they are many
overview, outcome, training, phases, captures, planned    a section each
sections   the list of them, in the order of the page
render     from sections to the file, with Plotly's own script inside; templates/page.html.j2 alone knows HTML

A further section is a function of a `Subject` that gives blocks, and a line in `sections.SECTIONS`.
"""
