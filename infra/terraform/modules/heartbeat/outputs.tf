output "role_arn" {
  description = "The function's role: a principal that signs with the timestamp's key."
  value       = aws_iam_role.this.arn
}

output "key_reference" {
  description = "The key, as modelfleet's commands take it: modelfleet init --timestamp-key, modelfleet key add timestamp."
  value       = "awskms:///${local.key}"
}

output "function" {
  description = "The function's name."
  value       = aws_lambda_function.this.function_name
}
