# Generalized fits by lme4, as tight as its optimiser goes, and by glmmTMB for families whose dispersion lme4 does not estimate.
#
#   python -c "import lmm; [lmm.datasets.load(n).to_csv(n + '.csv', index=False) for n in ('toenail', 'salamander')]"
#   Rscript make_generalized.R [PROBLEM ...] > generalized.json
#
# The other data sets are lme4's own. Standard errors of glmer are those of its Hessian over all parameters.
suppressMessages({library(lme4); library(glmmTMB); library(jsonlite)})
cbpp$prop <- cbpp$incidence / cbpp$size
cbpp$obs <- factor(seq_len(nrow(cbpp)))
grouseticks$cHEIGHT <- (grouseticks$HEIGHT - mean(grouseticks$HEIGHT)) / 100
sleepstudy$Rt <- sleepstudy$Reaction / 100
for (n in c("toenail", "salamander")) if (file.exists(paste0(n, ".csv"))) assign(n, read.csv(paste0(n, ".csv"), stringsAsFactors = TRUE))
if (exists("toenail")) toenail$outcome <- factor(toenail$outcome, levels = c("none or mild", "moderate or severe"))
tight <- glmerControl(optimizer = "bobyqa", tolPwrss = 1e-12, optCtrl = list(rhoend = 1e-9, maxfun = 1e5))

herd <- "cbind(incidence, size - incidence) ~ period + (1|herd)"
ticks <- "TICKS ~ YEAR + cHEIGHT + (1|BROOD) + (1|LOCATION)"
case <- function(formula, data, family, link, by = "glmer", weights = NULL)
  list(formula = formula, data = data, family = family, link = link, by = by, weights = weights)
cases <- list(
  cbpp = case(herd, "cbpp", "binomial", "logit"),
  cbpp_probit = case(herd, "cbpp", "binomial", "probit"),
  cbpp_cloglog = case(herd, "cbpp", "binomial", "cloglog"),
  cbpp_olre = case(paste(herd, "+ (1|obs)"), "cbpp", "binomial", "logit"),
  cbpp_proportion = case("prop ~ period + (1|herd)", "cbpp", "binomial", "logit", weights = "size"),
  grouseticks = case("TICKS ~ YEAR + cHEIGHT + (1|BROOD) + (1|INDEX) + (1|LOCATION)", "grouseticks", "poisson", "log"),
  grouse_offset = case("TICKS ~ YEAR + offset(log(HEIGHT)) + (1|BROOD)", "grouseticks", "poisson", "log"),
  arabidopsis = case("total.fruits ~ nutrient + amd + rack + status + (1|popu) + (1|gen)", "Arabidopsis", "poisson", "log"),
  toenail = case("outcome ~ treatment + visit + (1|patientID)", "toenail", "binomial", "logit"),
  salamander = case("Mate ~ 0 + Cross + (1|Female) + (1|Male)", "salamander", "binomial", "logit"),
  verbagg = case("r2 ~ Anger + Gender + btype + situ + (1|id) + (1|item)", "VerbAgg", "binomial", "logit"),
  verbagg_slope = case("r2 ~ btype + mode + (0+mode|id) + (1|item)", "VerbAgg", "binomial", "logit"),
  grouse_nb = case(ticks, "grouseticks", "nbinom2", "log", by = "glmer.nb"),
  tmb_grouse_nb2 = case(ticks, "grouseticks", "nbinom2", "log", by = "glmmTMB"),
  tmb_grouse_nb1 = case(ticks, "grouseticks", "nbinom1", "log", by = "glmmTMB"),
  tmb_sleep_gamma = case("Rt ~ Days + (1|Subject)", "sleepstudy", "Gamma", "log", by = "glmmTMB"),
  tmb_sleep_gamma_slope = case("Rt ~ Days + (Days|Subject)", "sleepstudy", "Gamma", "log", by = "glmmTMB"),
  tmb_sleep_gaussian_log = case("Rt ~ Days + (1|Subject)", "sleepstudy", "gaussian", "log", by = "glmmTMB")
)

named <- function(v) as.list(setNames(as.numeric(v), names(v)))
sds <- function(v) lapply(v, function(g) I(unname(attr(g, "stddev"))))
fitted_by <- function(case) {
  data <- get(case$data)
  arguments <- list(as.formula(case$formula), data = data)
  if (!is.null(case$weights)) arguments$weights <- data[[case$weights]]
  if (case$by == "glmmTMB") {
    m <- do.call(glmmTMB, c(arguments, list(family = get(case$family)(link = case$link))))
    fixed <- summary(m)$coefficients$cond
    return(list(m = m, fixef = fixed[, 1], se = fixed[, 2], sd = sds(VarCorr(m)$cond), sigma = sigma(m)))
  }
  m <- suppressWarnings(if (case$by == "glmer.nb") eval(bquote(glmer.nb(.(arguments[[1]]), data = grouseticks)))
                        else do.call(glmer, c(arguments, list(family = get(case$family)(link = case$link), control = tight))))
  list(m = m, fixef = fixef(m), se = sqrt(diag(as.matrix(vcov(m)))), sd = sds(VarCorr(m)),
       sigma = if (case$by == "glmer.nb") getME(m, "glmer.nb.theta") else 1)
}

wanted <- commandArgs(TRUE)
if (!length(wanted)) wanted <- names(cases)
out <- lapply(cases[wanted], function(case) {
  f <- fitted_by(case)
  c(case, list(loglik = as.numeric(logLik(f$m)), npar = attr(logLik(f$m), "df"), fixef = named(setNames(f$fixef, names(f$fixef))),
               se = named(setNames(f$se, names(f$fixef))), sd = f$sd, sigma = f$sigma))
})
cat(toJSON(out, digits = NA, auto_unbox = TRUE, null = "null", pretty = TRUE), "\n")
