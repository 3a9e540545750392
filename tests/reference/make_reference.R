# Reference fits by lme4, as tight as its optimiser goes, one JSON file per problem.
#
#   python -m benchmarks.export DATA
#   Rscript tests/reference/make_reference.R DATA tests/reference/lme4 [PROBLEM ...]
#
# Each file holds the fit (criterion, theta, coefficients, variances, conditional modes) and `at`: lme4's own
# ML deviance and REML criterion at fixed theta, which no optimiser has touched.
suppressMessages({library(lme4); library(jsonlite)})
args <- commandArgs(TRUE)
source_folder <- args[1]
target <- args[2]
manifest <- fromJSON(file.path(source_folder, "manifest.json"), simplifyVector = FALSE)

read_frame <- function(name) {
  levels <- manifest$data[[name]]$levels
  d <- read.csv(file.path(source_folder, paste0(name, ".csv")), check.names = FALSE,
                colClasses = setNames(rep("character", length(levels)), names(levels)))
  for (column in names(levels)) d[[column]] <- factor(d[[column]], levels = unlist(levels[[column]]))
  for (column in names(d)) if (is.integer(d[[column]])) d[[column]] <- as.numeric(d[[column]])
  d
}

control <- lmerControl(optimizer = "bobyqa", calc.derivs = FALSE, optCtrl = list(rhoend = 1e-10, maxfun = 1e5),
                       check.conv.singular = "ignore")

# lmer() looks for weights and offsets in the caller's environment: hand it values.
arguments <- function(problem, data) {
  a <- list(formula = as.formula(problem$formula), data = data, control = control)
  if (!is.null(problem$weights)) a$weights <- data[[problem$weights]]
  if (!is.null(problem$offset)) a$offset <- data[[problem$offset]]
  a
}

# BOBYQA can stop early on a long flat valley: start again from where it stopped until nothing is gained.
tightest <- function(problem, data) {
  a <- arguments(problem, data)
  fit <- suppressMessages(do.call(lmer, c(a, REML = problem$REML)))
  for (restart in 1:8) {
    criterion <- -2 * as.numeric(logLik(fit))
    again <- suppressMessages(do.call(lmer, c(a, list(REML = problem$REML, start = getME(fit, "theta")))))
    gained <- criterion + 2 * as.numeric(logLik(again))
    if (gained > 0) fit <- again
    if (gained < 1e-9) break
  }
  fit
}

# Three points: lme4's start, a spread-out one, and one near the estimate but not at a boundary.
places <- function(fit) {
  lower <- getME(fit, "lower")
  diagonal <- lower == 0
  i <- seq_along(lower)
  list(ifelse(diagonal, 1, 0),
       ifelse(diagonal, 0.25 + 0.15 * (i %% 5), 0.1 * (-1)^i),
       signif(getME(fit, "theta"), 3) + ifelse(diagonal, 0.05, -0.02))
}

at_fixed_theta <- function(problem, data, fit) {
  a <- arguments(problem, data)
  ml <- suppressMessages(do.call(lmer, c(a, REML = FALSE, devFunOnly = TRUE)))
  reml <- suppressMessages(do.call(lmer, c(a, REML = TRUE, devFunOnly = TRUE)))
  own <- if (problem$REML) reml else ml
  stopifnot(abs(own(getME(fit, "theta")) + 2 * as.numeric(logLik(fit))) < 1e-6)
  lapply(places(fit), function(theta) list(theta = I(theta), ml = ml(theta), reml = reml(theta)))
}

modes <- function(fit) {
  b <- as.data.frame(ranef(fit, condVar = TRUE))
  lapply(split(b, as.character(b$grpvar)), function(g) {
    columns <- unique(as.character(g$term))
    lapply(setNames(columns, columns), function(column) {
      rows <- g[as.character(g$term) == column, ]
      head <- seq_len(min(4, nrow(rows)))
      list(levels = I(as.character(rows$grp[head])), mode = I(signif(rows$condval[head], 10)), sd = I(signif(rows$condsd[head], 10)),
           n = nrow(rows), sum_sq = signif(sum(rows$condval^2), 10))
    })
  })
}

named <- function(values) as.list(setNames(signif(as.numeric(values), 12), names(values)))

record <- function(problem) {
  data <- read_frame(problem$data)
  fit <- tightest(problem, data)
  v <- as.matrix(vcov(fit))
  vc <- as.data.frame(VarCorr(fit))
  list(
    problem = problem$name, formula = problem$formula, R = paste0(R.version$major, ".", R.version$minor), lme4 = as.character(packageVersion("lme4")),
    fingerprint = manifest$data[[problem$data]]$fingerprint,
    nobs = nobs(fit), npar = attr(logLik(fit), "df"), criterion = -2 * as.numeric(logLik(fit)),
    aic = AIC(fit), bic = BIC(fit), singular = isSingular(fit), sigma = signif(sigma(fit), 12),
    theta = as.list(signif(getME(fit, "theta"), 12)), lower = I(as.integer(getME(fit, "lower") == 0)),
    fixef = named(fixef(fit)), se = named(sqrt(diag(v))), vcov = if (nrow(v) <= 12) signif(unname(v), 11) else NULL,
    dropped = I(names(fixef(fit, add.dropped = TRUE))[is.na(fixef(fit, add.dropped = TRUE))]),
    varcorr = lapply(seq_len(nrow(vc)), function(i)
      list(vc$grp[i], vc$var1[i], vc$var2[i], signif(vc$vcov[i], 11), signif(vc$sdcor[i], 11))),
    ranef = modes(fit), fitted_sum_sq = signif(sum(fitted(fit)^2), 13),
    at = at_fixed_theta(problem, data, fit))
}

wanted <- if (length(args) > 2) args[-(1:2)] else vapply(manifest$problems, function(p) p$name, "")
for (problem in manifest$problems) if (problem$name %in% wanted) {
  started <- proc.time()[["elapsed"]]
  write(toJSON(record(problem), digits = NA, auto_unbox = TRUE, na = "null", null = "null"), file.path(target, paste0(problem$name, ".json")))
  cat(sprintf("%-34s %6.1f s\n", problem$name, proc.time()[["elapsed"]] - started))
}
