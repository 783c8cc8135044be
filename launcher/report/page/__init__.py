"""The page of a run: one self-contained HTML file, built from named sections.

content    the content of a page, free of HTML: sections and their blocks
plots      lines over iterations and stacked bars, as plain values for Plotly
metrics    the metrics of an attempt over its iterations, thinned while they are read
overview, outcome, training, evaluations, phases, nodes, captures, software, plan    one section each
sections   the list of sections, in the order of the page
render     from sections to the file, with Plotly's script; only templates/page.html.j2 contains HTML

To add a section, write a function from a `Subject` to blocks, and add it to `sections.SECTIONS`.
"""
