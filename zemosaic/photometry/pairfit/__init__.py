"""The robust line between the previews of a pair.

========== =======================================================================================
cell       an element of the grid that all previews share
block      4 x 4 cells; a preview holds the means of its blocks
fit block  1, 2 x 2, 4 x 4, ... blocks, or a single cell in a small overlap
star cell  a cell of a fit block with a bright star, which enters the fit individually as well
sample     a fit block or a star cell: a row of the least-squares problem
patch      12 x 12 cells; the errors of different patches are independent
========== =======================================================================================

`measure` describes the model. `overlap_blocks` gathers the `samples` of a pair, `initial_slope`
starts the fit, `design` sets up its columns, `irls` fits the line, `streaks` removes trails,
`star_scatter` allows for stars whose gains differ, and `estimates` computes gains and levels with
their standard errors.
"""
