# Cumulative link mixed models by R's ordinal::clmm, its inner iterations and its optimiser run beyond the defaults.
#
#   python -c "import lmm; d = lmm.datasets.load('InstEval'); d[d.s.cat.codes < 200].to_csv('few_students.csv', index=False)"
#   Rscript make_ordinal.R > ordinal.json
#
# The wine data are ordinal's own; frequency weights are 1, 2, 3, 1, 2, 3, ... by row. Standard errors are those of clmm's
# numerical Hessian over all parameters, thresholds first. In this version clmm calls loglog what clm and MASS::polr call
# cloglog, P(y <= k) = 1 - exp(-exp(alpha_k - eta)), and the other way round: the names here are clm's.
suppressMessages({library(ordinal); library(jsonlite)})
wine$w <- rep(1:3, length.out = nrow(wine))
if (file.exists("few_students.csv")) {
  few_students <- read.csv("few_students.csv", stringsAsFactors = TRUE)
  for (column in c("y", "s", "d", "service")) few_students[[column]] <- factor(few_students[[column]])
}
judge <- "rating ~ temp + contact + (1|judge)"
case <- function(formula, link = "logit", threshold = "flexible", nAGQ = 1L, weights = NULL, data = "wine")
  list(formula = formula, link = link, threshold = threshold, nAGQ = nAGQ, weights = weights, data = data)
cases <- list(
  wine = case(judge),
  wine_probit = case(judge, "probit"),
  wine_cloglog = case(judge, "cloglog"),
  wine_equidistant = case(judge, threshold = "equidistant"),
  wine_probit_equidistant = case(judge, "probit", "equidistant"),
  wine_cloglog_equidistant = case(judge, "cloglog", "equidistant"),
  wine_agq = case(judge, nAGQ = 10L),
  wine_probit_agq = case(judge, "probit", nAGQ = 10L),
  wine_cloglog_agq = case(judge, "cloglog", nAGQ = 10L),
  wine_weights = case(judge, weights = "w"),
  wine_crossed = case("rating ~ temp * contact + (1|judge) + (1|bottle)"),
  wine_crossed_probit = case("rating ~ contact + (1|judge) + (1|bottle)", "probit"),
  wine_slope = case("rating ~ temp + contact + (1 + contact|judge)", "probit"),
  students = case("y ~ service + (1|s) + (1|d)", data = "few_students")
)
named <- c(logit = "logit", probit = "probit", cloglog = "loglog")
fit <- function(p) {
  data <- get(p$data)
  data$w <- if (is.null(p$weights)) rep(1, nrow(data)) else data[[p$weights]]
  run <- function(...) suppressWarnings(
    eval(bquote(clmm(.(as.formula(p$formula)), data = data, weights = w, link = .(named[[p$link]]), threshold = .(p$threshold),
                     nAGQ = .(p$nAGQ), control = clmm.control(...), Hess = TRUE))))
  seconds <- system.time(best <- run())[["elapsed"]]
  se <- sqrt(diag(vcov(best)))
  # the default stops the search for the modes at a gradient of 1e-4, which costs 4e-6 in the log-likelihood; a smaller one often
  # stops unconverged, which a numerical Hessian does not bear, so that standard errors are those of the default
  if (nrow(data) < 1000) {
    tight <- list(run(method = "nlminb", gradTol = 1e-9, maxIter = 200), run(method = "ucminf", gradTol = 1e-9, maxIter = 200))
    best <- tight[[which.max(sapply(tight, logLik))]]
  }
  q <- length(best$alpha) + length(best$beta)
  list(formula = p$formula, link = p$link, threshold = p$threshold, nAGQ = p$nAGQ, weights = p$weights, data = p$data,
       seconds = seconds, loglik = as.numeric(logLik(best)), alpha = I(unname(best$alpha)), names = I(names(best$beta)),
       beta = I(unname(best$beta)), se = I(unname(se[1:q])),
       sd = I(unlist(lapply(VarCorr(best), function(v) unname(attr(v, "stddev"))))), fitted = I(head(unname(best$fitted.values), 5)),
       modes = I(head(as.numeric(best$ranef), 5)), variances = I(if (length(best$condVar) == length(best$ranef)) head(as.numeric(best$condVar), 5) else numeric(0)))
}
chosen <- commandArgs(TRUE)
answers <- lapply(if (length(chosen)) cases[chosen] else cases, fit)
header <- list(R = paste0(R.version$major, ".", R.version$minor), ordinal = as.character(packageVersion("ordinal")))
write(toJSON(c(header, list(fits = answers)), digits = 10, auto_unbox = TRUE, pretty = TRUE, null = "null"), stdout())
