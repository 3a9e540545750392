# Fits without each group and without each row, by lme4: Rscript make_influence.R > influence.json
suppressMessages({library(lme4); library(jsonlite)})
control <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhoend = 1e-9, maxfun = 1e5), calc.derivs = FALSE)
one <- function(model, group = NULL) {
  inf <- suppressWarnings(suppressMessages(if (is.null(group)) influence(model) else influence(model, groups = group)))
  own <- as.matrix(inf[[grep("fixed.effects\\[", names(inf))]])
  se <- do.call(rbind, lapply(inf[[grep("vcov\\[", names(inf))]], function(V) sqrt(diag(as.matrix(V)))))
  list(estimates = own, se = se, variances = inf[[grep("var.cov.comps\\[", names(inf))]], units = rownames(own), vcov = as.matrix(vcov(model)))
}
sleep <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy, control = control)
pen <- lmer(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin, control = control, REML = FALSE)
cbpp_fit <- glmer(cbind(incidence, size - incidence) ~ period + (1 | herd), cbpp, family = binomial)
out <- list(R = R.version.string, lme4 = as.character(packageVersion("lme4")),
            sleep_group = one(sleep, "Subject"), sleep_row = one(sleep), penicillin_group = one(pen, "sample"), cbpp_group = one(cbpp_fit, "herd"))
cat(toJSON(out, digits = 12, auto_unbox = TRUE, dataframe = "columns", pretty = FALSE))
