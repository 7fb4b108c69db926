// The console in headless Chromium: screens taken, flows clicked, axe-core clean, nothing that the policy forbids.
//   node browser.mjs URL TOKEN [FOLDER]     screenshots go to FOLDER, default target/console-test/screens
import { createRequire } from "node:module";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import assert from "node:assert/strict";

const [url, token, folder = "target/console-test/screens"] = process.argv.slice(2);
const require = createRequire(join(process.cwd(), "target/console-test/"));
const { chromium } = require("playwright-core");
const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
const program = ["/usr/bin/chromium", "/usr/bin/chromium-browser"].find(existsSync);
if (!program) throw new Error("chromium is missing; install it: apt-get install chromium");
mkdirSync(folder, { recursive: true });

const profile = mkdtempSync(join(tmpdir(), "homeward-chromium-"));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: program,
  headless: true,
  args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync"],
  bypassCSP: false,
});
const complaints = [];
const watch = (page) => {
  page.on("console", (message) => {
    if (message.type() !== "error") return;
    // An answer that is an error by design is no complaint of the page.
    if (/status of (401|404)/.test(message.text())) return;
    complaints.push(`${page.url()}: ${message.text()}`);
  });
  page.on("pageerror", (error) => complaints.push(`${page.url()}: ${error}`));
  page.on("request", (request) => {
    if (!request.url().startsWith(url)) complaints.push(`${page.url()} asks elsewhere: ${request.url()}`);
  });
};

let step = "";
const told = (text) => { step = text; console.log("  " + text); };

async function accessible(page, name) {
  // Run in the page's own world by the debugger: the policy of the page forbids injected scripts, and must.
  await page.evaluate(axe);
  const found = await page.evaluate(() => globalThis.axe.run(document, {
    runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
  }));
  const shown = found.violations.map((v) => `${v.id}: ${v.help}\n      ` + v.nodes.slice(0, 4).map((n) => n.target + " " + n.failureSummary?.split("\n")[1]).join("\n      "));
  assert.equal(shown.length, 0, `${name}: ${shown.join("\n    ")}`);
}

async function wide(page, name) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert.ok(over <= 0, `${name} is ${over} px too wide`);
}

const settings = [
  ["light", { width: 1280, height: 900 }], ["dark", { width: 1280, height: 900 }],
  ["light", { width: 390, height: 844 }], ["dark", { width: 390, height: 844 }],
];

async function look(page, path, name) {
  for (const [scheme, size] of settings) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.setViewportSize(size);
    await page.goto(url + path, { waitUntil: "load" });
    const shown = `${name}-${scheme}-${size.width}`;
    await page.screenshot({ path: join(folder, `${shown}.png`), fullPage: true, animations: "disabled" });
    await accessible(page, shown);
    await wide(page, shown);
  }
}

try {
  const page = await browser.newPage();
  watch(page);

  told("every place, light and dark, wide and narrow");
  const users = await (await fetch(`${url}/v1/users?status=problem&limit=1`)).json();
  const enabled = await (await fetch(`${url}/v1/users?status=awaiting-password&limit=1`)).json();
  await look(page, "/", "overview");
  await look(page, "/users", "users");
  await look(page, "/users/" + enabled.users[0].key, "user");
  await look(page, "/users/" + users.users[0].key, "user-problem");
  await look(page, "/problems", "problems");
  await look(page, "/guard", "guard");
  await look(page, "/resets", "resets");
  await look(page, "/tail", "tail");
  await look(page, "/signin", "signin");
  await look(page, "/nowhere", "nowhere");

  await page.setViewportSize({ width: 1280, height: 900 });
  await page.emulateMedia({ colorScheme: "light" });

  told("the tail is live, and resumes after a break");
  await page.goto(url + "/tail?kind=enabled");
  const first = await page.locator("table.tail tbody tr").first().innerText();
  await page.waitForFunction((first) => document.querySelector("table.tail tbody tr").innerText !== first, first, { timeout: 30000 });
  await browser.setOffline(true);
  await page.waitForTimeout(500);
  await browser.setOffline(false);
  const second = await page.locator("table.tail tbody tr").first().innerText();
  await page.waitForFunction((second) => document.querySelector("table.tail tbody tr").innerText !== second, second, { timeout: 60000 });
  const logins = await page.locator("table.tail tbody tr td:nth-child(3)").allInnerTexts();
  const hires = logins.filter((login) => login.startsWith("hire")).map((login) => Number(login.slice(4)));
  hires.forEach((n, at) => assert.equal(n, hires[0] - at, `the tail has gaps or doubles: ${hires}`));

  told("the overview refreshes by itself");
  await page.goto(url + "/");
  const seen = await page.locator("#flow .total").first().innerText();
  await page.waitForFunction((seen) => document.querySelector("#flow .total").innerText !== seen, seen, { timeout: 30000 });

  told("a user is found, with the reasons and the history");
  await page.fill("#search", "hire000");
  await page.keyboard.press("Enter");
  await page.click("table tbody tr a");
  await page.waitForSelector("h1:has-text('hire000')");
  const why = await page.innerText(".topics");
  for (const text of ["everybody else", "places taken", "SRV for example.com", "Digest in force since"]) {
    assert.ok(why.includes(text), `${text} is missing in: ${why}`);
  }
  assert.ok((await page.innerText("table.tail")).includes("enabled"));

  told("nobody is offered anything before signing in; a wrong token is refused");
  await page.goto(url + "/");
  assert.equal(await page.locator("a.button", { hasText: "Cordon" }).count(), 0);
  await page.click("text=Sign in");
  await page.fill("#token", "hwc_wrong");
  await page.keyboard.press("Enter");
  await page.waitForSelector("[role=alert]");
  await accessible(page, "signin-wrong");

  told("an operator signs in by keyboard, cordons a home and opens it again");
  await page.fill("#token", token);
  await page.keyboard.press("Enter");
  await page.waitForSelector("text=Sign out");
  await look(page, "/", "overview-operator");
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.emulateMedia({ colorScheme: "light" });
  await page.goto(url + "/");
  await page.click(".home:has-text('im2') >> text=Cordon");
  await look(page, new URL(page.url()).pathname + new URL(page.url()).search, "confirm");
  await page.click("text=Do it");
  await page.waitForSelector(".note:has-text('taken: done')");
  await page.waitForSelector(".home:has-text('im2') >> text=cordoned");
  await page.click(".home:has-text('im2') >> text=Activate");
  await page.click("text=Do it");
  await page.waitForSelector(".home:has-text('im2') >> text=active");

  told("the held plan is looked at and approved");
  await page.click("#held >> text=Approve this plan");
  await page.click("text=Do it");
  await page.waitForSelector(".note:has-text('changes pass')");
  await page.goto(url + "/audit");
  assert.ok((await page.innerText("table")).includes("olga (console)"));
  await look(page, "/audit", "audit");

  told("signed out, nothing is offered any more");
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.goto(url + "/");
  await page.click("text=Sign out");
  await page.waitForSelector("text=Sign in");
  assert.equal((await browser.cookies()).length, 0);

  told("without script everything is there");
  const plain = await (await chromium.launch({ executablePath: program, args: ["--no-sandbox", "--disable-gpu", "--disable-quic",
    "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"] })).newContext({ javaScriptEnabled: false });
  const still = await plain.newPage();
  await still.goto(url + "/");
  for (const text of ["Home servers", "The last hour", "What happens", "Source"]) await still.waitForSelector(`text=${text}`);
  await still.fill("#search", "hire000");
  await still.keyboard.press("Enter");
  await still.waitForSelector("table tbody tr a");
  await plain.browser().close();

  step = "complaints";
  assert.deepEqual(complaints, []);
  console.log(`console-test: fine; screens in ${folder}`);
} catch (error) {
  console.error(`console-test: ${step}: ${error.message ?? error}`);
  process.exitCode = 1;
} finally {
  await browser.close();
  rmSync(profile, { recursive: true, force: true });
}
