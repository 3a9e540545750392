# R's own lowess on a shipped data set, for the curves through residuals.
#
#   python -c "import lmm; lmm.datasets.load('sleepstudy').to_csv('sleepstudy.csv', index=False)"
#   Rscript make_lowess.R > lowess.json
suppressMessages(library(jsonlite))
d <- read.csv("sleepstudy.csv")
# a continuous x with few ties, from the data alone
d$x <- d$Reaction + 10 * d$Days
d$y <- abs(d$Reaction - 250 - 10 * d$Days)
at <- function(f, iter) { fit <- lowess(d$x, d$y, f = f, iter = iter, delta = 0); list(span = f, iterations = iter, x = fit$x, y = fit$y) }
cat(toJSON(list(at(2/3, 3), at(2/3, 0), at(0.3, 3), at(0.1, 0)), digits = NA, auto_unbox = TRUE), "\n")
