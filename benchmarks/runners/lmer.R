# lme4 or glmmTMB: Rscript lmer.R JOB TOOL. The protocol is runners/protocol.py's.
arguments <- commandArgs(TRUE)
tool <- arguments[2]
now <- function() as.numeric(Sys.time())
suppressMessages(library(tool, character.only = TRUE))
begin <- now()  # what only serves to read the job counts as reading
suppressMessages({library(jsonlite); library(data.table)})
job <- fromJSON(arguments[1], simplifyVector = FALSE)

peak_memory <- function() {
  status <- "/proc/self/status"
  if (!file.exists(status)) return(NA)
  as.numeric(gsub("[^0-9]", "", grep("VmHWM", readLines(status), value = TRUE))) / 1024
}
answer <- list(warm = list(), cannot = "", note = "",
               version = paste0(packageVersion(tool), ", R ", R.version$major, ".", R.version$minor, ", ", basename(La_library())))
save <- function() write(toJSON(answer, digits = NA, auto_unbox = TRUE, na = "null", null = "null"), job$out)

data <- as.data.frame(fread(job$csv, colClasses = list(character = names(job$levels))))
for (column in names(job$levels)) data[[column]] <- factor(data[[column]], levels = unlist(job$levels[[column]]))
answer$read <- now() - begin

formula <- as.formula(job$formula)
generalized <- !is.null(job$family)
call <- list(as.name(if (tool == "glmmTMB") "glmmTMB" else if (generalized) "glmer" else "lmer"), formula, data = quote(data))
if (generalized) call$family <- as.name(job$family) else call$REML <- job$reml
if (!is.null(job$weights)) call$weights <- as.name(job$weights)
call <- as.call(call)
fit <- function() suppressWarnings(suppressMessages(eval(call, globalenv())))

begin <- now()
model <- fit()
answer$first <- now() - begin
answer$cold <- now() - job$started - answer$read
answer$loglik <- as.numeric(logLik(model))
answer$evaluations <- if (tool == "lme4") model@optinfo$feval else unname(sum(model$fit$evaluations))
answer$memory <- peak_memory()
save()
begin <- now()
while (length(answer$warm) < job[["repeat"]] && (!length(answer$warm) || now() - begin < job$budget)) {
  start <- now()
  fit()
  answer$warm <- c(answer$warm, now() - start)
}
answer$memory <- peak_memory()
save()
