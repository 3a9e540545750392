# Degrees of freedom, adjusted covariances and analyses of variance by lmerTest and pbkrtest.
#
#   python -c "import lmm; [lmm.datasets.load(n).to_csv(n + '.csv', index=False) for n in ('sleepstudy', 'cake', 'Pastes', 'Penicillin', 'Dyestuff2', 'Oats')]"
#   Rscript make_inference.R > inference.json
#
# Designs that are not among the data sets are simulated here and written out with their numbers.
suppressMessages({library(lmerTest); library(pbkrtest); library(jsonlite)})
sets <- c("sleepstudy", "cake", "Pastes", "Penicillin", "Dyestuff2", "Oats")
text <- c("Subject", "recipe", "temperature", "replicate", "batch", "cask", "sample", "plate", "Batch", "Block", "Variety")
data <- lapply(setNames(sets, sets), function(n) {
  d <- read.csv(paste0(n, ".csv"))
  for (v in intersect(text, names(d))) d[[v]] <- factor(d[[v]], levels = unique(d[[v]]))
  d
})
thin <- function(d, by) d[seq_len(nrow(d)) %% by != 0, ]
data$sleep_unbalanced <- thin(subset(data$sleepstudy, !(Subject %in% c("308", "309") & Days > 3)), 7)
data$cake_unbalanced <- thin(subset(data$cake, !(recipe == "B" & replicate %in% 1:4)), 4)
data$pastes_unbalanced <- thin(data$Pastes, 5)
data$penicillin_unbalanced <- thin(data$Penicillin, 3)

set.seed(20)
n <- 150
cells <- data.frame(A = factor(sample(letters[1:3], n, TRUE)), B = factor(sample(LETTERS[1:4], n, TRUE, c(4, 3, 2, 1))),
                    x = round(rnorm(n, 2), 3), z = round(runif(n), 3), g = factor(sample(paste0("g", 1:12), n, TRUE)),
                    h = factor(sample(paste0("h", 1:6), n, TRUE)), w = round(runif(n, .5, 2), 2))
effect <- function(f, sd) rnorm(nlevels(f), 0, sd)[as.integer(f)]
cells$y <- round(with(cells, as.integer(A) + x + effect(g, 1) + effect(h, .7) + x * effect(g, .4) + rnorm(n)), 3)
data$cells <- cells
data$empty <- subset(cells, !(A == "c" & B == "D") & !(A == "a" & B == "C"))
data$near <- within(cells, y <- round(as.integer(A) + x + effect(g, .12) + effect(h, .7) + rnorm(n), 3))

case <- function(formula, data, ...) list(formula = formula, data = data, ...)
cases <- list(
  sleep = case("Reaction ~ Days + (Days|Subject)", "sleepstudy"),
  sleep_ml = case("Reaction ~ Days + (Days|Subject)", "sleepstudy", REML = FALSE),
  sleep_unbalanced = case("Reaction ~ Days + (Days|Subject)", "sleep_unbalanced"),
  sleep_uncorrelated = case("Reaction ~ Days + (Days||Subject)", "sleep_unbalanced"),
  split_plot = case("yield ~ Variety * nitro + (1|Block/Variety)", "Oats"),
  cake = case("angle ~ recipe * temperature + (1|recipe:replicate)", "cake"),
  cake_unbalanced = case("angle ~ recipe * temperature + (1|recipe:replicate)", "cake_unbalanced"),
  cake_sum = case("angle ~ recipe * temperature + (1|recipe:replicate)", "cake_unbalanced", contrasts = list(recipe = "contr.sum", temperature = "contr.helmert")),
  cake_numeric = case("angle ~ recipe * temp + (1|replicate)", "cake_unbalanced"),
  nested = case("strength ~ 1 + (1|batch/cask)", "pastes_unbalanced"),
  crossed = case("diameter ~ 1 + (1|plate) + (1|sample)", "penicillin_unbalanced"),
  singular = case("Yield ~ 1 + (1|Batch)", "Dyestuff2"),
  near_singular = case("y ~ A + x + (1|g) + (1|h)", "near"),
  slopes = case("y ~ A * x + B + (x|g) + (1|h)", "cells"),
  three_way = case("y ~ A * B * x + (1|g) + (1|h)", "cells"),
  nested_terms = case("y ~ A/x + B + (1|g)", "cells"),
  no_intercept = case("y ~ 0 + A + B:x + (1|g)", "cells"),
  additive_empty = case("y ~ A + B + z + (1|g)", "empty"),
  empty_cells = case("y ~ A * B + z + (1|g) + (1|h)", "empty"),
  collinear = case("y ~ A + x + I(2*x) + z + (1|g)", "cells"),
  weights = case("y ~ A * z + (x|g)", "cells", weights = "w")
)

frame <- function(m) { m <- as.matrix(m); list(rows = I(rownames(m)), cols = I(colnames(m)), values = I(lapply(seq_len(nrow(m)), function(i) I(unname(m[i, ]))))) }
tight <- lmerControl(check.conv.singular = "ignore", optCtrl = list(xtol_abs = 1e-12, ftol_abs = 1e-14, maxeval = 1e5))
run <- function(case) {
  d <- droplevels(data[[case$data]])
  arguments <- list(as.formula(case$formula), data = d, REML = is.null(case$REML), control = tight)
  if (!is.null(case$contrasts)) arguments$contrasts <- case$contrasts
  if (!is.null(case$weights)) arguments$weights <- d[[case$weights]]
  m <- suppressMessages(do.call(lmerTest::lmer, arguments))
  methods <- if (is.null(case$weights) && is.null(case$REML)) c("Satterthwaite", "Kenward-Roger") else "Satterthwaite"
  p <- length(fixef(m))
  joint <- if (p > 1) cbind(0, diag(p - 1)) else diag(1)
  out <- list(formula = case$formula, data = d, levels = lapply(Filter(is.factor, d), levels), REML = is.null(case$REML), contrasts = case$contrasts, weights = case$weights)
  for (method in methods) {
    key <- if (method == "Satterthwaite") "satterthwaite" else "kenward_roger"
    out[[key]] <- list(coef = frame(coef(summary(m, ddf = method))), joint = unlist(contest(m, joint, ddf = method)[1, ]))
    if (nrow(anova(m))) out[[key]]$anova <- setNames(lapply(c("I", "II", "III"), function(t) frame(anova(m, type = t, ddf = method))), c("1", "2", "3"))
    if (key == "kenward_roger") out[[key]]$vcov <- unname(as.matrix(vcovAdj(m)))
  }
  out
}
cat(toJSON(lapply(cases, run), digits = 10, auto_unbox = TRUE, na = "null", factor = "string"))
