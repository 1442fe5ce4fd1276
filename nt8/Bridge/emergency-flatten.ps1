# Emergency flatten through the file interface of NinjaTrader's AT Interface, for an operator, when the AddOn does not load.
# Limits: FLATTENEVERYTHING acts on ALL accounts of this NinjaTrader, also on those that FKS does not trade. There is no
# answer: look at the Positions and Orders tabs afterwards. The AT Interface must be switched on before
# (Tools > Options > Automated trading interface). The program never runs this script by itself.
$incoming = Join-Path ([Environment]::GetFolderPath('MyDocuments')) 'NinjaTrader 8\incoming'
if (-not (Test-Path $incoming)) { Write-Error "$incoming is missing: is NinjaTrader 8 installed for this user?"; exit 1 }
$answer = Read-Host 'Cancel all orders and close all positions of ALL accounts in this NinjaTrader? Type FLATTEN'
if ($answer -cne 'FLATTEN') { Write-Output 'nothing was sent'; exit 1 }
$name = 'oif' + [DateTime]::UtcNow.ToString('yyyyMMddHHmmssfff')
$temporary = Join-Path $incoming ($name + '.tmp')
[IO.File]::WriteAllText($temporary, "FLATTENEVERYTHING`r`n", [Text.Encoding]::ASCII)
Rename-Item $temporary ($name + '.txt')   # NinjaTrader reads only a complete file
Start-Sleep -Seconds 3
if (Test-Path (Join-Path $incoming ($name + '.txt'))) {
  Write-Error 'NinjaTrader did not take the file: the AT Interface is off, or NinjaTrader does not run. Close the positions by hand or call the broker.'
  exit 1
}
Write-Output 'NinjaTrader took the file. Look at the Positions and Orders tabs now: this interface reports nothing.'
