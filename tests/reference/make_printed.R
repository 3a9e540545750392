# What lme4 prints and extracts for fits of data sets that both packages ship, to a tight optimum.
#     Rscript make_printed.R > printed.json
suppressMessages({library(lme4); library(jsonlite)})
data(Machines, package = "nlme")
Machines$Worker <- factor(as.character(Machines$Worker))
Machines$Machine <- factor(as.character(Machines$Machine))
cake$temperature <- factor(as.character(cake$temperature))
sleepgap <- sleepstudy
sleepgap$Reaction[c(3, 50)] <- NA
tight <- lmerControl(optimizer = "bobyqa", calc.derivs = FALSE, optCtrl = list(rhoend = 1e-11, maxfun = 1e5))

cases <- list(
  sleep = list(Reaction ~ Days + (Days | Subject), "sleepstudy", TRUE),
  sleep_ml = list(Reaction ~ Days + (Days | Subject), "sleepstudy", FALSE),
  sleep_intercept = list(Reaction ~ Days + (1 | Subject), "sleepstudy", TRUE),
  sleep_gap = list(Reaction ~ Days + (1 | Subject), "sleepgap", TRUE),
  machines = list(score ~ Machine + (Machine | Worker), "Machines", TRUE),
  penicillin = list(diameter ~ 1 + (1 | plate) + (1 | sample), "Penicillin", TRUE),
  pastes_ml = list(strength ~ 1 + (1 | batch / cask), "Pastes", FALSE),
  dyestuff2 = list(Yield ~ 1 + (1 | Batch), "Dyestuff2", TRUE),
  cake = list(angle ~ recipe * temperature + (1 | recipe:replicate), "cake", TRUE),
  insteval = list(y ~ service + (1 | s) + (1 | d) + (1 | dept), "InstEval", TRUE)
)

# numbers of the figures only: names are spelled differently, and the line about control is ours
lines_of <- function(x) {
  out <- capture.output(suppressMessages(print(x)))
  out[!grepl("^(Control|Formula|   Data|optimizer|boundary)", out)]
}
frame_of <- function(x) list(names = colnames(x), rows = rownames(x), values = unname(as.matrix(x)))

numbers <- lapply(cases, function(case) {
  m <- suppressMessages(lmer(case[[1]], data = get(case[[2]]), REML = case[[3]], control = tight))
  wald <- confint(m, method = "Wald", oldNames = FALSE)
  list(
    summary = lines_of(summary(m)), varcorr = lines_of(VarCorr(m)), print = lines_of(m),
    theta = as.list(getME(m, "theta")),
    deviance = deviance(m, REML = FALSE), loglik = as.numeric(logLik(m)), df_residual = df.residual(m),
    wald = list(rows = rownames(wald), values = unname(wald)),
    pca = lapply(unclass(rePCA(m)), function(p) as.list(p$sdev)),
    coef = lapply(coef(m), function(x) frame_of(head(x, 4)))
  )
})

m <- lmer(Reaction ~ Days + (Days | Subject), sleepstudy, control = tight)
new <- data.frame(Days = c(0, 5, 9, 12), Subject = c("308", "309", "999", "372"))
p <- lmer(diameter ~ 1 + (1 | plate) + (1 | sample), Penicillin, control = tight)
predictions <- list(
  sleep = list(new = new, full = unname(predict(m, new, allow.new.levels = TRUE)), population = unname(predict(m, new, re.form = NA)),
    intercept_only = unname(predict(m, new, re.form = ~ (1 | Subject), allow.new.levels = TRUE))),
  penicillin = list(full = head(unname(predict(p)), 8), plate = head(unname(predict(p, re.form = ~ (1 | plate))), 8),
    sample = head(unname(predict(p, re.form = ~ (1 | sample))), 8))
)
made <- sprintf("R %s, lme4 %s, make_printed.R", getRversion(), packageVersion("lme4"))
cat(toJSON(list(made = made, fits = numbers, predictions = predictions), digits = NA, auto_unbox = TRUE, pretty = TRUE, na = "null"), "\n")
