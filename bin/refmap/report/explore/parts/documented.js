"use strict";
// What draws the page, in this order:
//   content.js      the JSON of the page: reads and unpacks it
//   columns.js      what cells are coloured and filtered by: codes, values, colours
//   genes.js        genes as columns, unpacked when they are asked for
//   shown.js        the state: the view, the filters, what each cell looks like
//   renderers.js    WebGL, and a plain canvas where there is none
//   drawing.js      one frame: density, cells, names
//   pointing.js     the cell that is pointed at
//   moving.js       mouse, fingers and keys move the view
//   selection.js    selected cells: how many, of what, saved as CSV
//   lasso.js        the cells within a line that is drawn
//   legend.js       the rows of the legend
//   panel.js        the other controls
//   link.js         the address keeps what is shown
//   start.js        begins
//
// A link to this page may say, after its #, what to show:
//   color=COLUMN                       the column to colour by; of a gene it is called "gene NAME"
//   hide.COLUMN=NAME, only.COLUMN=NAME categories to hide, or the only ones to show; once for each
//   from.COLUMN=X, to.COLUMN=X         the range of numbers to show
//   missing.COLUMN=off, absent.COLUMN=off   hide cells without a value; hide the datasets without the column
//   names=off                          no names in the picture
//   draw=points, draw=density          one of them alone, where there are both
//   at=X,Y,ZOOM                        the middle, as shares of the picture's longer side, and how far to zoom in
// The address keeps up with what is shown.
//
// window.refmap: ready (a promise: names are read and the link is followed), cells (how many), renderer ("webgl" or "2d"),
// find(name) -> number of a cell or -1, cell(i) -> what hovering shows of it, pixel(i) -> [x, y] in the window,
// shown() -> how many cells are, selected() -> the numbers of the selected ones, drawn() -> how many cells the
// last frame drew: in a moving picture a sample, where all would take too long.
