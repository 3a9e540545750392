# Poisson counts up to two million on the sleepstudy design: the log-likelihood of lme4 (Laplace) at its optimum.
# Rscript make_large_counts.R  (reads and completes large_counts.json, whose counts were simulated with
# beta = (0.25, 0.5) and covariance 0.1 * [[1, 0.25], [0.25, 1]])
suppressMessages({library(lme4); library(jsonlite)})
path <- file.path(dirname(sub("--file=", "", grep("--file=", commandArgs(), value = TRUE))), "large_counts.json")
known <- fromJSON(path)
d <- data.frame(y = known$y, Days = known$Days, Subject = factor(known$Subject))
m <- glmer(y ~ Days + (Days | Subject), d, family = poisson,
           control = glmerControl(optimizer = "bobyqa", optCtrl = list(maxfun = 1e5, rhoend = 1e-9)))
known$llf <- as.numeric(logLik(m))
known$beta <- unname(fixef(m))
known$theta <- unname(getME(m, "theta"))
write(toJSON(known, digits = 10), path)
print(logLik(m)); print(known$beta); print(known$theta)
