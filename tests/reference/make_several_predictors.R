# Models with several linear predictors by glmmTMB 1.1.5, on grouse ticks (lme4): several_predictors.json
suppressMessages({library(glmmTMB); library(lme4); library(jsonlite)})
data(grouseticks)
ticks <- grouseticks
ticks$lost <- ifelse(as.integer(as.character(ticks$INDEX)) %% 4 == 0, 0, ticks$TICKS)
ticks$height <- as.numeric(scale(ticks$HEIGHT))
models <- list(
  zip_random = list(TICKS ~ YEAR + (1 | BROOD), ~ height + (1 | LOCATION), ~ 1, poisson()),
  zinb2 = list(lost ~ YEAR + height + (1 | BROOD), ~ height, ~ 1, nbinom2()),
  zinb1_disp = list(lost ~ YEAR + (1 | BROOD), ~ 1, ~ height, nbinom1()),
  nb2_disp = list(TICKS ~ YEAR + height + (1 | LOCATION), ~ 0, ~ YEAR, nbinom2()),
  hurdle_gamma = list(TICKS ~ YEAR + (1 | LOCATION), ~ height + (1 | LOCATION), ~ YEAR, ziGamma(link = "log"))
)
out <- lapply(models, function(m) {
  fit <- glmmTMB(m[[1]], ziformula = m[[2]], dispformula = m[[3]], family = m[[4]], data = ticks)
  se <- lapply(vcov(fit), function(v) sqrt(diag(v)))
  sds <- lapply(VarCorr(fit), function(v) lapply(v, function(g) as.numeric(attr(g, "stddev"))))
  list(
    formula = deparse1(m[[1]]), zi = deparse1(m[[2]]), disp = deparse1(m[[3]]), family = m[[4]]$family,
    llf = as.numeric(logLik(fit)), df = attr(logLik(fit), "df"), coef = lapply(fixef(fit), unname), se = lapply(se, unname),
    sd = sds, fitted = head(unname(fitted(fit)), 5), pearson = head(unname(residuals(fit, type = "pearson")), 5),
    zprob = head(unname(predict(fit, type = "zprob")), 5), conditional = head(unname(predict(fit, type = "conditional")), 5)
  )
})
write(toJSON(out, digits = 12, auto_unbox = TRUE, pretty = TRUE, null = "null"), "several_predictors.json")
