# Fixed effects, standard errors and log-likelihoods that lme4 prints for three models: with its defaults, with
# use.hessian = FALSE, and with the inner iterations (tolPwrss) and the optimiser run far beyond the defaults.
#
#   python -m benchmarks.export DATA cbpp toenail grouseticks_glmm
#   Rscript tests/reference/make_glmer_errors.R DATA > tests/reference/glmer_errors.json
suppressMessages({library(lme4); library(jsonlite)})
source_folder <- commandArgs(TRUE)[1]
manifest <- fromJSON(file.path(source_folder, "manifest.json"), simplifyVector = FALSE)

read_frame <- function(name) {
  levels <- manifest$data[[name]]$levels
  d <- read.csv(file.path(source_folder, paste0(name, ".csv")), check.names = FALSE,
                colClasses = setNames(rep("character", length(levels)), names(levels)))
  for (column in names(levels)) d[[column]] <- factor(d[[column]], levels = unlist(levels[[column]]))
  d
}
tight <- glmerControl(optimizer = "bobyqa", tolPwrss = 1e-13, optCtrl = list(rhobeg = 2e-3, rhoend = 1e-9, maxfun = 1e5))
values <- function(x) I(signif(as.numeric(x), 9))
errors <- function(fit, ...) values(sqrt(diag(as.matrix(suppressWarnings(vcov(fit, ...))))))
described <- function(fit) list(loglik = as.numeric(logLik(fit)), beta = values(fixef(fit)), sd = values(getME(fit, "theta")), se = errors(fit))

record <- function(problem) {
  data <- read_frame(problem$data)
  formula <- as.formula(problem$formula)
  family <- get(problem$family)
  default <- suppressWarnings(glmer(formula, data, family))
  start <- list(theta = getME(default, "theta"), fixef = fixef(default))
  best <- suppressWarnings(glmer(formula, data, family, control = tight, start = start))
  list(formula = problem$formula, names = I(names(fixef(default))), default = described(default),
       without_hessian = errors(default, use.hessian = FALSE), tight = described(best))
}
answers <- lapply(manifest$problems, record)
names(answers) <- vapply(manifest$problems, function(p) p$name, "")
header <- list(R = paste0(R.version$major, ".", R.version$minor), lme4 = as.character(packageVersion("lme4")))
write(toJSON(c(header, list(problems = answers)), digits = NA, auto_unbox = TRUE, pretty = TRUE), stdout())
